"""Which attacks the tables of docs/results/miga.md are of."""

from __future__ import annotations

from dataclasses import replace

from .craft import ATTACKS, Plan
from .defences import DEFENCES, SECOND

KINDS = ("dncnn", "unet")
BALLS = (  # denoiser, and eps on the 0-255 scale
    ("dncnn-25-plain", 25),
    ("dncnn-25-plain", 50),
    ("unet-25-plain", 50),
    ("dncnn-50-plain", 50),
    ("unet-50-plain", 50),
)
FIRST = Plan(attack="MIGA", denoiser="dncnn-25-plain")  # what ablation, trade-off, transfer and defences begin with
SWITCHES = {
    "all three": (1, 1, 1), "without L_MI": (0, 1, 1), "without L_rec": (1, 0, 1), "without L_com": (1, 1, 0),
    "L_MI alone": (1, 0, 0),
}  # fmt: skip
ALONE = ("MIGA-CE", "MIGA-blind")  # on FIRST's denoiser alone, the second, which is slow, in its ball alone
REC = (1, 10, 30, 100, 300)  # lambda_rec; lambda_com is a tenth of it
RADII = (12, 25, 50)


def main_plans() -> list[Plan]:
    """The attacks on each denoiser in each ball; those of ALONE on FIRST's denoiser alone."""
    found = []
    for denoiser, eps in BALLS:
        names = [name for name in ATTACKS if denoiser == FIRST.denoiser or name not in ALONE]
        names = [name for name in names if name != "MIGA-blind" or eps == FIRST.eps]
        found += [Plan(attack=name, denoiser=denoiser, eps=eps) for name in names]
    return found


def ablation() -> dict[str, Plan]:
    """The losses of FIRST switched off."""
    found = {}
    for name, switches in SWITCHES.items():
        mi, rec, com = (w * on for w, on in zip(FIRST.lambdas, switches, strict=True))
        found[name] = replace(FIRST, weights=(mi, rec, com))
    return found


def trade_off() -> list[Plan]:
    """MIGA at growing lambda_rec; what denoising-PGD does in growing balls."""
    swept = [replace(FIRST, weights=(1, rec, rec / 10)) for rec in REC]
    plain = [replace(FIRST, attack=attack, eps=eps) for attack in ("denoising-PGD", "PGD") for eps in RADII]
    return swept + plain


def transfer() -> list[Plan]:
    """What is scored on other networks than those it was crafted on."""
    crafted = [Plan(attack="MIGA", denoiser=f"{k}-25-plain", task=t) for k in KINDS for t in ("cnn", "mlp")]
    return crafted + [Plan(attack="MIGA-surrogate", denoiser=f"{k}-25-plain") for k in KINDS]


def unaware() -> list[tuple[Plan, str]]:
    """Attacks that know nothing of the defence behind the denoiser."""
    names = ["", *DEFENCES, SECOND]
    return [(replace(FIRST, attack=attack), name) for attack in ("MIGA", "MIGA-surrogate", "PGD") for name in names]


def aware() -> list[tuple[Plan, str]]:
    """Attacks that climb through the defence, and attacks on denoisers that were trained by typical sets."""
    through = [(replace(FIRST, through=name), name) for name in ("blur", SECOND)]
    hardened = [
        (Plan(attack=attack, denoiser=f"{kind}-25-{how}"), "")
        for attack in ("MIGA", "PGD")
        for kind in KINDS
        for how in ("plain", "ts")
    ]
    return through + hardened
