"""Files of splats: bytes by hand, round trips, files of others, and damaged ones."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import NUMBERS, cloud

from viewfold import limits
from viewfold.errors import AssetError, InputError
from viewfold.scene.gaussian.cloud import Gaussians
from viewfold.scene.gaussian.splatfile import PLAIN, read_splats, write_splats


def theirs(path: Path, columns: dict[str, list[float]], *, more: str = "", tail: bytes = b"") -> Path:
    """Write columns as another program would; `more` is further lines of the header."""
    count = len(next(iter(columns.values())))
    names = "".join(f"property float {name}\n" for name in columns)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{names}{more}end_header\n"
    path.write_bytes(header.encode() + np.stack(list(columns.values()), axis=1).astype("<f4").tobytes() + tail)
    return path


def columns(count: int = 2, **changed: list[float]) -> dict[str, list[float]]:
    return {**{name: [float(i + 1)] * count for i, name in enumerate(PLAIN)}, **changed}


def test_a_file_holds_the_released_layout(tmp_path: Path) -> None:
    """Name by name and byte by byte, of one with colours of degree 1: all red numbers of f_rest first."""
    one = Gaussians(
        mean=torch.tensor([[1.0, 2, 3]]),
        log_scale=torch.tensor([[-1.0, -2, -3]]),
        rotation=torch.tensor([[2.0, 0, 0, 0]]),
        opacity_logit=torch.tensor([0.5]),
        sh=torch.arange(12.0).reshape(1, 4, 3),
    )
    data = write_splats(tmp_path / "a.ply", one).read_bytes()
    header, _, body = data.partition(b"end_header\n")
    named = [line.split()[2].decode() for line in header.splitlines() if line.startswith(b"property float")]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert named == [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 1\n")
    expected = [1, 2, 3, 0, 0, 0, 0, 1, 2, 3, 6, 9, 4, 7, 10, 5, 8, 11, 0.5, -1, -2, -3, 1, 0, 0, 0]
    assert np.frombuffer(body, "<f4").tolist() == expected


@pytest.mark.parametrize("degree", [0, 1])
def test_what_is_written_is_read(degree: int, tmp_path: Path) -> None:
    made = cloud(7, degree=degree)
    back = read_splats(write_splats(tmp_path / "a.ply", made))
    for name in NUMBERS:
        expected = torch.nn.functional.normalize(made.rotation, dim=1) if name == "rotation" else getattr(made, name)
        torch.testing.assert_close(getattr(back, name), expected)


def test_another_library_reads_it(tmp_path: Path) -> None:
    import trimesh

    made = cloud(5, degree=0)
    loaded = trimesh.load(write_splats(tmp_path / "a.ply", made))
    raw = loaded.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_allclose(np.stack([raw["x"], raw["y"], raw["z"]], 1), made.mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(raw["opacity"].squeeze(), made.opacity_logit.numpy(), rtol=1e-6)


def test_what_is_left_out_of_a_file_of_others_is_said(tmp_path: Path) -> None:
    """Colours of degree 3: of 15 numbers a channel the first three are kept."""
    rest = {f"f_rest_{i}": [float(i)] * 2 for i in range(45)}
    given = {"nx": [9.0, 9.0], **columns(), **rest, "class": [1.0, 2.0]}
    path = theirs(tmp_path / "a.ply", given, more="element camera 1\nproperty uchar id\n", tail=b"\x07")
    with pytest.warns(UserWarning) as said:
        made = read_splats(path)
    words = " ".join(str(each.message) for each in said)
    assert "degrees 2 to 3" in words and "class" in words and "camera" in words and len(said) == 3
    assert made.sh[0, 1:].tolist() == [[0, 15, 30], [1, 16, 31], [2, 17, 32]]
    assert made.mean.tolist() == [[1, 2, 3]] * 2 and made.sh[:, 0].tolist() == [[4, 5, 6]] * 2
    assert made.opacity_logit.tolist() == [7, 7] and made.log_scale[0].tolist() == [8, 9, 10]
    assert made.rotation[0].tolist() == [11, 12, 13, 14]


def test_an_ascii_file_is_read_too(tmp_path: Path) -> None:
    names = "".join(f"property double {name}\n" for name in reversed(PLAIN))
    numbers = " ".join(str(i) for i in range(14))
    (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{names}end_header\n{numbers}\n")
    assert read_splats(tmp_path / "a.ply").mean.tolist() == [[13, 12, 11]]


def test_splats_that_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    given = columns(
        6,
        x=[0.0, nan, 1e30, 0, 0, 0],
        scale_1=[0.0, 0, 0, inf, 500, 0],
        rot_0=[1.0, 1, 1, 1, 1, 0],
        rot_1=[0.0] * 6,
        rot_2=[0.0] * 6,
        rot_3=[0.0] * 6,
    )
    with pytest.warns(UserWarning, match="5 splats of 6"):
        made = read_splats(theirs(tmp_path / "a.ply", given))
    assert len(made) == 1 and bool(made.covariance().isfinite().all())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"opacity": None}, "no `opacity`"),
        ({"x": [float("nan")] * 2}, "none of its splats is finite"),
        ({"f_rest_0": [0.0] * 2}, "a whole degree"),
        ({f"f_rest_{i + 1}": [0.0] * 2 for i in range(9)}, "a whole degree"),
    ],
)
def test_what_is_no_splat_file_says_why(changed: dict, said: str, tmp_path: Path) -> None:
    given = {name: value for name, value in {**columns(), **changed}.items() if value is not None}
    with pytest.raises(AssetError, match=said):
        read_splats(theirs(tmp_path / "a.ply", given))


def test_files_are_bounded_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = theirs(tmp_path / "a.ply", columns())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssetError, match="cut short"):
        read_splats(path)
    path.write_bytes(path.read_bytes().replace(b"vertex 2", b"vertex 900000000"))
    with pytest.raises(AssetError, match="header counts"):
        read_splats(path)
    with pytest.raises(AssetError, match="cannot be read"):
        read_splats(tmp_path / "absent.ply")
    monkeypatch.setattr(limits, "SPLATS", 1)
    with pytest.raises(AssetError, match="1 to 1 splats; it has 2"):
        read_splats(theirs(tmp_path / "b.ply", columns()))
    monkeypatch.setattr(limits, "MESH_BYTES", 100)
    with pytest.raises(AssetError, match="bytes"):
        read_splats(path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    made = cloud(2)
    with pytest.raises(InputError, match="must end in .ply"):
        write_splats(tmp_path / "a.splat", made)
    made.mean[0, 0] = float("inf")
    with pytest.raises(InputError, match="must be finite"):
        write_splats(tmp_path / "a.ply", made)
    assert not list(tmp_path.iterdir())


def test_a_move_keeps_the_look_and_refuses_to_turn() -> None:
    made = cloud(3)
    matrix = torch.eye(4, dtype=torch.float64) * 2
    matrix[:3, 3] = torch.tensor([1.0, 2, 3])
    moved = made.moved(matrix)
    torch.testing.assert_close(moved.mean, 2 * made.mean + torch.tensor([1.0, 2, 3]))
    torch.testing.assert_close(moved.covariance(), 4 * made.covariance())
    matrix[0, 1] = 0.5
    with pytest.raises(InputError, match="`matrix` must scale"):
        made.moved(matrix)


def test_no_warning_where_nothing_is_left_out(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_splats(write_splats(tmp_path / "a.ply", cloud(2)))
