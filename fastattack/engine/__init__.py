"""The attack loop, the only one in the project: a source gives gradients, a walk moves, a job keeps the best.

Nothing in the loop waits for the device: the best iterate and the search for non-finite numbers live in tensors that
are read once, at the end (with ``stop``: every few steps).
"""

from .ensemble import ENSEMBLES, Ensemble
from .job import Job
from .loop import attack
from .naming import draws_by_name
from .schedule import NonFiniteError, Outcome, Progress, Schedule
from .source import Model, Models, Moment, Single, Source, View, Wrapped
from .walk import Rule, Steepest, Walk

__all__ = [
    "ENSEMBLES",
    "Ensemble",
    "Job",
    "Model",
    "Models",
    "Moment",
    "NonFiniteError",
    "Outcome",
    "Progress",
    "Rule",
    "Schedule",
    "Single",
    "Source",
    "Steepest",
    "View",
    "Walk",
    "Wrapped",
    "attack",
    "draws_by_name",
]
