"""Pairs from folders of files: none is lost, and a folder of both kinds is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastattack.images import save_png
from fastattack.job_train_registration import read_images
from fastattack.registration import Synthetic
from fastattack.registration.cases import synthetic_cases


def image(seed: int = 0) -> Tensor:
    return torch.rand(24, 24, generator=torch.Generator().manual_seed(seed))


def save_nifti(path: Path, seed: int = 0, step: float = 2.0) -> Path:
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image(seed)[..., None].numpy(), np.diag([step, step, step, 1])), path)
    return path


def test_files_of_one_name_keep_a_name_each(tmp_path: Path) -> None:
    for k, name in enumerate(("x/a.png", "y/a.png", "y/a_1.png", "y/a_2.png")):
        save_png(tmp_path / name, image(k))
    cases = synthetic_cases([tmp_path / "x", tmp_path / "y"], seed=0)
    assert [case.name for case in cases] == ["a", "a_3", "a_1", "a_2"]


def test_folders_of_nifti(tmp_path: Path) -> None:
    for k, name in enumerate(("b.nii.gz", "a.nii")):
        save_nifti(tmp_path / "n" / name, k)
    cases = synthetic_cases([tmp_path / "n"], seed=0, options=Synthetic(points=4))
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[0].truth.spacing.tolist() == [[2, 2]]  # options do not hide the file's own
    told = synthetic_cases([tmp_path / "n"], seed=0, options=Synthetic(points=4, spacing=(3.0, 3.0)))
    assert told[0].truth.spacing.tolist() == [[3, 3]]
    assert len(read_images([tmp_path / "n", tmp_path / "n" / "a.nii"])) == 2


def test_nifti_beside_image_files_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "n" / "a.nii")
    save_png(tmp_path / "n" / "b.png", image())
    save_png(tmp_path / "p" / "c.png", image())
    for paths in ([tmp_path / "n"], [tmp_path / "n" / "a.nii", tmp_path / "p"]):
        with pytest.raises(ValueError, match=r"got both: .*a\.nii and .*[bc]\.png"):
            synthetic_cases(paths, seed=0)
        with pytest.raises(ValueError, match=r"got both: .*a\.nii and .*[bc]\.png"):
            read_images(paths)
    with pytest.raises(ValueError, match="no image paths"):
        read_images([])
