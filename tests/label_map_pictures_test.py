import numpy as np
import pytest

from diffstride.training import label_map_pictures

pytestmark = pytest.mark.once

matplotlib_image = pytest.importorskip("matplotlib.image")


@pytest.mark.parametrize("num_classes", [3, 30])
def test_a_picture_has_the_maps_beside_their_images(num_classes, tmp_path):
    images = np.random.default_rng(0).normal(size=(2, 30, 40, 1))
    maps = np.zeros((2, 30, 40), int)
    maps[:, :, 20:] = 2
    other = np.full_like(maps, -1)
    path = tmp_path / "maps.png"
    names = [f"class {number}" for number in range(num_classes)]
    columns = {"labels": maps, "prediction": other}
    assert label_map_pictures.draw_label_maps(images, columns, names, path)
    picture = matplotlib_image.imread(path)[..., :3]
    height, width = picture.shape[:2]
    rows = slice(int(0.2 * height), int(0.3 * height))
    labels = picture[rows, int(0.37 * width) : int(0.63 * width)]
    left, right = labels[:, 5], labels[:, -5]
    assert np.ptp(left, axis=0).max() < 0.01 < np.abs(left - right).max()
    # Pixels that do not count are black.
    assert picture[rows, int(0.8 * width)].max() < 0.01


def test_without_matplotlib_there_is_no_picture(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    images, maps = np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4), int)
    path = tmp_path / "maps.png"
    assert not label_map_pictures.draw_label_maps(
        images, {"labels": maps}, ["a"], path
    )
    assert "without matplotlib" in caplog.text and not path.exists()
