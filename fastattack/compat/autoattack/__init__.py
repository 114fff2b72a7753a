"""AutoAttack (Croce & Hein, arXiv 2003.01690; L1: 2103.01208) as the authors' package has it, on this project's engine.

`from fastattack.compat.autoattack import AutoAttack` takes the place of `from autoattack import AutoAttack`.
"""

from .evaluation import AutoAttack

__all__ = ["AutoAttack"]
