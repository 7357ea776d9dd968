"""Images in the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from publisher_host import Quiet, offer_ucmerced, serving
from tracked_store import Store

from hptctl.report import page
from hptctl.report.samples import samples_of


def test_images_of_a_dataset_are_in_the_page_only_where_they_are_asked_for(
    tmp_path: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store()
    for dataset in (str(digits_folder), "flowers"):
        store.evaluate("linear", store.pretrain("hpt", dataset, 100), dataset, None, right=[300])
    page.write(Path("plain.html"))
    assert "data:image" not in Path("plain.html").read_text()
    page.write(Path("shown.html"), images=4)
    html = Path("shown.html").read_text()
    assert re.findall(r'alt="An image of (\w+)"', html) == ["0", "0", "1", "2"]
    assert html.count("Its images are not on the machine") == 1
    (first, *_) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (16, 16)


def test_a_page_downloads_no_dataset_for_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))
    (tmp_path / "host").mkdir()
    with serving(tmp_path / "host") as address:
        row = offer_ucmerced(address, tmp_path / "host", tmp_path / "work", monkeypatch)
        assert samples_of("ucmerced", 2) == ()
        assert Quiet.asked == []
        row.fetch()
        assert len(samples_of("ucmerced", 2)) == 2
