"""Mutual information of two variables from samples: bounds, the critic that they need, and an estimate.

An attack that lowers the information between its input and the model's output trains a `Critic` beside itself.
"""

from . import bounds
from .bounds import MovingAverage
from .critic import Critic
from .encoder import ImageEncoder
from .estimate import Moment, MutualInformation, evaluate, mutual_information
from .memory import MemoryBank
from .network import StatisticsNetwork

__all__ = [
    "Critic",
    "ImageEncoder",
    "MemoryBank",
    "Moment",
    "MovingAverage",
    "MutualInformation",
    "StatisticsNetwork",
    "bounds",
    "evaluate",
    "mutual_information",
]
