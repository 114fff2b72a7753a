"""The C++ kernels; pointers are integers, `walk` is None or ((4 sizes), (5 strides) for each tensor). See csrc/cpu."""

openmp: bool

def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def triad(a: int, b: int, c: int, count: int, threads: int) -> None: ...
def pgd_step(
    adv: int,
    grad: int,
    origin: int,
    mask: int,
    batch: int,
    count: int,
    walk: tuple[object, ...] | None,
    dtype: int,
    norm: int,
    eps: float,
    eps_values: int,
    step: float,
    step_values: int,
    low: float,
    high: float,
    threads: int,
) -> None: ...
def project(
    adv: int,
    origin: int,
    mask: int,
    batch: int,
    count: int,
    walk: tuple[object, ...] | None,
    dtype: int,
    norm: int,
    eps: float,
    eps_values: int,
    low: float,
    high: float,
    threads: int,
) -> None: ...
def preserve_noise(
    adv: int,
    origin: int,
    clean: int,
    batch: int,
    count: int,
    walk: tuple[object, ...] | None,
    dtype: int,
    norm: int,
    eps: float,
    eps_values: int,
    threads: int,
) -> None: ...
def noise_stats(
    noise: int,
    out: int,
    batch: int,
    count: int,
    walk: tuple[object, ...] | None,
    dtype: int,
    sigma: float,
    sigma_values: int,
    mean: float,
    mean_values: int,
    threads: int,
) -> None: ...
def random_start(
    adv: int,
    origin: int,
    batch: int,
    count: int,
    walk: tuple[object, ...] | None,
    dtype: int,
    norm: int,
    eps: float,
    eps_values: int,
    low: float,
    high: float,
    seed: int,
    sample_ids: int,
    threads: int,
) -> None: ...
def typical_noise(
    out: int,
    clean: int,
    batch: int,
    count: int,
    walk: tuple[object, ...] | None,
    dtype: int,
    sigma: float,
    sigma_values: int,
    typicality: float,
    typicality_values: int,
    mean: float,
    mean_values: int,
    seed: int,
    sample_ids: int,
    threads: int,
) -> None: ...
