"""Fashion-MNIST for three nodes: reads the files of Debian's package and deals the training images out.

    python fashion_data.py [FOLDER]

writes node-1.npz, node-2.npz, node-3.npz and test.npz into FOLDER (default: fashion-mnist), and prints the commands
that make and start the nodes. The files come from ``apt-get install dataset-fashion-mnist``; ``--source`` names another
folder with the same four files. Data set: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv:1708.07747.
"""

from __future__ import annotations

import argparse
import gzip
import math
import shlex
import struct
import zlib
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
INSTALL = "sudo apt-get install dataset-fashion-mnist"
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
LARGEST = 256 * 1024 * 1024  # bytes of values that one file may claim


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes, the format of MNIST.

    Two zero bytes, the type (8: unsigned byte), the number of axes; then the length of each axis as a big-endian
    32-bit number; then the values, the last axis fastest.

    Raises:
        FileNotFoundError: There is no such file; the message says how to get it.
        ValueError: It is not such a file, or holds fewer or more values than it says.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Fashion-MNIST is not on this machine: there is no file {path}. On Debian and Ubuntu: {INSTALL}"
        )
    try:
        with gzip.open(path) as file:
            zeros, kind, axes = struct.unpack(">HBB", _take(file, 4))
            if zeros != 0 or kind != 8 or not axes:
                raise ValueError("it does not begin as an IDX file of unsigned bytes does")
            shape = struct.unpack(f">{axes}I", _take(file, 4 * axes))
            count = math.prod(shape)
            if count > LARGEST:
                raise ValueError(f"it claims to hold {count:,} values")
            values = np.frombuffer(_take(file, count), np.uint8)
            if file.read(1):
                raise ValueError(f"more than the {count:,} values that it announces follow")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    return values.reshape(shape)


def load(part: str, source: Path = SOURCE) -> tuple[np.ndarray, np.ndarray]:
    """Load the ``"train"`` (60,000) or ``"test"`` (10,000) images and labels.

    Returns:
        Images as float32 in [0, 1] of shape (n, 1, 28, 28), and labels from 0 to 9 as int64 of shape (n,).

    Raises:
        FileNotFoundError: The files are not there.
        ValueError: They are not what they should be.
    """
    images, labels = (read_idx(source / name) for name in FILES[part])
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
        raise ValueError(
            f"{source} does not hold Fashion-MNIST: images of shape {images.shape}, labels of shape {labels.shape}."
        )
    return images[:, np.newaxis].astype(np.float32) / np.float32(255), labels.astype(np.int64)


def deal(images: np.ndarray, labels: np.ndarray, nodes: int = 3, seed: int = 1) -> dict[str, tuple]:
    """Shuffle the images and deal them out in equal parts, so that every node has the same mix of classes (IID)."""
    order = np.random.default_rng(seed).permutation(len(images))
    parts = np.array_split(order, nodes)
    return {f"node-{number}": (images[part], labels[part]) for number, part in enumerate(parts, 1)}


def save(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> Path:
    """Write one ``.npz`` file, which a node registers as a data set of type ``arrays``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npz"
    np.savez(path, images=images, labels=labels)
    return path


def commands(folder: Path, names: list[str]) -> list[str]:
    """What to type to make and start the nodes; each ``start`` wants a terminal of its own."""
    lines = []
    for name in names:
        node = f"fedplug node --folder {shlex.quote(str(folder / name))}"
        file = shlex.quote(str(folder / f"{name}.npz"))
        lines += [
            f"{node} init --name {name} --id {name} --approval off",
            f"{node} dataset add {file} --tags '#fashion-mnist' --target labels",
            f"{node} start",
        ]
    return lines


def _take(file: gzip.GzipFile, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("it ends too early")
    return data


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prepare Fashion-MNIST for three nodes.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("fashion-mnist"), help="where the files go")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the four IDX files")
    given = parser.parse_args()
    try:
        parts = deal(*load("train", given.source))
        for name, (images, labels) in parts.items():
            print(f"{save(given.folder, name, images, labels)}: {len(labels):,} images")
        print(f"{save(given.folder, 'test', *load('test', given.source))}: for the researcher")
    except (OSError, ValueError) as error:
        parser.exit(1, f"Error: {error}\n")
    print("\nMake the nodes and start each in a terminal of its own:\n")
    print("\n".join(commands(given.folder, list(parts))))
