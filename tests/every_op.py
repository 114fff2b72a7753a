"""Every op of a backend once: for the test of the order of blocks, and for compute-sanitizer."""

from __future__ import annotations

import torch

from fastattack.ops.backend import Backend


def every_op(
    backend: Backend,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    form: torch.memory_format = torch.contiguous_format,
) -> list[torch.Tensor]:
    """What every op writes, for the same inputs of several tiles; drawn on the CPU, so that a GPU runs little else."""
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randn(2, 3, 61, 67, generator=draw).to(dtype) for _ in range(4)]
    clean, noise, move, grad = (t.to(device, memory_format=form) for t in drawn)
    origin, bounds = clean + 0.1 * noise, (-10.0, 10.0)
    out = [backend.noise_stats(noise, 1.0, 0.0), backend.distances(origin, clean)]
    for norm in ("linf", "l2"):
        advs = [origin + 0.05 * move for _ in range(4)]
        backend.pgd_step(advs[0], grad, origin, None, norm, 0.06, 0.01, bounds)
        backend.project(advs[1], origin, None, norm, 0.06, bounds)
        backend.preserve_noise(advs[2], origin, clean, norm, 0.06)
        backend.random_start(advs[3], origin, norm, 0.06, bounds, 1 << 63, None)
        momentum = move.clone()
        advs += [origin + 0.05 * move, momentum]
        backend.momentum_step(advs[4], momentum, grad, origin, None, norm, 0.06, 0.01, 0.9, bounds)
        out += advs
        out += [origin + 0.05 * move, origin + 0.03 * move]
        backend.apgd_step(out[-2], out[-1], grad, origin, None, norm, 0.06, 0.01, 0.75, bounds)
        advs = [origin + 0.05 * move for _ in range(3)]
        backend.zero_mean_step(advs[0], grad, origin, 0.06, 0.01)
        backend.zero_mean_step(advs[1], None, origin, 0.06, 0.0)
        if dtype in (torch.float32, torch.float64):  # no other type holds the grid, and backends do not check
            backend.quantise(advs[2], origin.clamp(0, 1), None, norm, 0.06, 8, (0.0, 1.0))
        out += advs
    out.append(grad.clone())
    backend.accumulate(out[-1], noise, 0.9, torch.tensor([0.0, 0.3], dtype=torch.float64, device=device))
    sparse = [origin + 0.05 * move for _ in range(2)]
    backend.l1_project(sparse[0], origin, None, 30.0, bounds)
    backend.l1_step(sparse[1], grad, origin, None, 30.0, 5.0, 0.05, bounds)
    out += sparse
    gaps = torch.tensor([0.1, float("nan")], dtype=torch.float64, device=device)
    for images, gap in ((None, 0.1), (clean, gaps), (clean, float("nan"))):
        out.append(torch.empty_like(clean))
        backend.typical_noise(out[-1], images, 0.1, gap, 0.01, 1 << 63, None)
    some = torch.tensor([0.0, 0.3], dtype=torch.float64, device=device)
    for eps_hat, b, c in ((None, 0.0, 0.4), (grad, -0.2, some), (grad, some, 0.0)):
        out.append(origin.clone())
        backend.diffusion_step(out[-1], eps_hat, 0.9, b, c, 1 << 63, 5, None)
    return out
