"""Distilling a model that can only be queried into a white-box student (DUCD, arXiv 2408.10647).

`distill` asks and trains; `Cached` and `Endpoint` are the ways to ask; `membership_inference` measures what a model
gives away of its training data.
"""

from .answers import KINDS, LOSSES, kind_of
from .asking import collect
from .cached import Cached, QueryError
from .distilling import DistillResult, distill, learn
from .endpoint import Endpoint, EndpointError, as_lists, as_png, from_json
from .learning import Answered, Learning
from .membership import AttackScore, MembershipReport, membership_inference
from .queries import Augment, Generate
from .students import SmallCNN, load_student

__all__ = [
    "KINDS",
    "LOSSES",
    "Answered",
    "AttackScore",
    "Augment",
    "Cached",
    "DistillResult",
    "Endpoint",
    "EndpointError",
    "Generate",
    "Learning",
    "MembershipReport",
    "QueryError",
    "SmallCNN",
    "as_lists",
    "as_png",
    "collect",
    "distill",
    "from_json",
    "kind_of",
    "learn",
    "load_student",
    "membership_inference",
]
