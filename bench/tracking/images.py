"""Pictures in MLflow's image grid: under which key and step, and each once, whatever failed in between."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from numpy.typing import NDArray
    from PIL.Image import Image

WIDTH = 256  # pixels; the UI enlarges narrower pictures by blurring them
EPOCH_PICTURE = re.compile(r"(?P<key>.+)-epoch-(?P<step>\d+)")  # samples-epoch-020.png
SMALL = "+compressed.webp"  # the copy that the grid shows; MLflow writes it after the picture
LOGGED = re.compile(r"images/(?P<name>(?P<key>[^+]+)\+step\+(?P<step>\d+)\+.*?)(\.png|\+compressed\.webp)")

There = dict[tuple[str, int], str]  # by key and step: how MLflow named a picture that lacks its copy, else ""


def in_folder(folder: Path, epochs: int) -> Iterator[tuple[Path, str, int]]:
    """The pictures in a folder as file, key and step: the last epoch where the name says none."""
    for file in sorted(folder.glob("*.png")):
        found = EPOCH_PICTURE.fullmatch(file.stem)
        yield (file, found["key"], int(found["step"])) if found else (file, file.stem, epochs)


def in_store(client: MlflowClient, mlflow_id: str) -> There:
    """The pictures that a run in the store has."""
    there: There = {}
    paths = [file.path for file in client.list_artifacts(mlflow_id, "images")]
    for found in filter(None, map(LOGGED.fullmatch, paths)):
        key = found["key"], int(found["step"])
        there[key] = "" if there.get(key) == "" or found[4] == SMALL else found["name"]
    return there


def log(
    client: MlflowClient,
    mlflow_id: str,
    picture: Path | str | NDArray[np.generic],
    key: str,
    step: int,
    there: There,
) -> None:
    """Log a picture, or what the store lacks of it."""
    half = there.get((key, step))
    if half is None:
        client.log_image(mlflow_id, as_image(picture), key=key, step=step, synchronous=True)
    elif half:
        image = as_image(picture)
        image.thumbnail((WIDTH, WIDTH))
        with tempfile.TemporaryDirectory() as folder:
            image.save(Path(folder) / (half + SMALL))
            client.log_artifact(mlflow_id, str(Path(folder) / (half + SMALL)), "images")
        client.set_tag(mlflow_id, "mlflow.loggedImages", "True")
    there[key, step] = ""


def as_image(picture: Path | str | NDArray[np.generic]) -> Image:
    """A file or pixels as a picture at least 256 pixels wide, enlarged by whole factors without smoothing."""
    import numpy as np
    import PIL.Image

    if isinstance(picture, (str, Path)):
        with PIL.Image.open(picture) as file:
            image = file.convert(file.mode if file.mode in ("L", "RGB") else "RGB")
    else:
        pixels = np.asarray(picture)
        if pixels.dtype != np.uint8:
            pixels = np.round(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
        image = PIL.Image.fromarray(pixels)
    factor = -(-WIDTH // image.width)
    return image.resize((image.width * factor, image.height * factor), PIL.Image.Resampling.NEAREST)
