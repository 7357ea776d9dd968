"""Images behind an address: an S3 store and a web server on 127.0.0.1, and what is said where they fail."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hosts_of_files import Ranges, object_store, web_server
from PIL import Image
from small_images import noise_images

from hpt.config import DataConfig
from hpt.data import remote
from hpt.data.dataset import Dataset, load, load_streamed
from hpt.data.names import find, list_images, name_of, place_of
from hpt.data.pack import pack
from hpt.data.paths import find_path
from hpt.data.remote import Address, LocalFiles, RemoteFiles, address_of, expand
from hpt.data.row import CatalogRow
from hpt.errors import DataError

CONFIG = DataConfig()
SIZE = 1 << 16
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_images(tmp_path_factory.mktemp("noise") / "noise", 60)


@pytest.fixture
def here(folder: Path) -> Dataset:
    return load(str(folder), CONFIG, side=64)


def packed(folder: Path, out: str | Path) -> None:
    pack(find(str(folder)), address_of(str(out)) or Path(out), CONFIG, shard_bytes=SIZE)


def same(a: Dataset, b: Dataset) -> None:
    assert a.images.names == b.images.names
    assert (a.fingerprint, a.split_fingerprint) == (b.fingerprint, b.split_fingerprint)


def test_a_pack_in_an_s3_store_is_the_folder(store: str, folder: Path, here: Dataset) -> None:
    packed(folder, "s3://bucket/noise/v1.0")
    found = load("s3://bucket/noise/v1.0", CONFIG, side=64)
    same(here, found)
    assert found.name == "v1"
    assert name_of(find("s3://bucket/noise/")) == "noise"
    packed(folder, "s3://bucket/noise/v1.0")  # nothing is written anew
    braces = "s3://bucket/noise/v1.0/images-{000000..000001}.tar"
    assert len(list_images(find(braces)).names) < len(here.images)


def test_shards_of_others_in_an_s3_store_are_read_by_their_headers(store: str, folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "pack")
    files = RemoteFiles(Address("s3://bucket/others/"))
    for path in (tmp_path / "pack").glob("*.tar"):
        files.write(path.name, path)
    found = list_images(find("s3://bucket/others/*.tar"))
    assert len(found.names) == 60
    assert found.classes == ("0", "1")
    with found.source.open() as read:
        assert all(read(name) == (folder / name).read_bytes() for name in found.names)


def test_tables_in_an_s3_store_are_read(store: str, tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(data, "png")
    rows = {"image": [data.getvalue()] * 40, "label": ["a", "b"] * 20}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet", row_group_size=7)
    RemoteFiles(Address("s3://bucket/tables/")).write("train.parquet", tmp_path / "t.parquet")
    found = load("s3://bucket/tables", CONFIG, side=64)
    assert (len(found.images), found.classes) == (40, ("a", "b"))


@pytest.fixture
def own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the user's rows."""
    monkeypatch.setenv("HPTCTL_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return lambda text: (tmp_path / "data" / "catalog.toml").write_text(text) and None


def test_a_row_of_the_users_own_may_lie_in_an_s3_store(
    store: str, folder: Path, here: Dataset, own_rows: Callable[[str], None]
) -> None:
    packed(folder, "s3://bucket/rows/")
    own_rows("[far]\npath = 's3://bucket/rows/'\nmetric = 'balanced_accuracy'\nshares = {val = 0.2, test = 0.3}")
    found = load("far", CONFIG, side=64)
    assert (found.name, found.metric, found.images.names) == ("far", "balanced_accuracy", here.images.names)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 30, "val": 12, "test": 18}
    streamed = load_streamed("far", CONFIG, side=64)
    assert (streamed.images.names, streamed.split_fingerprint) == (found.images.names, found.split_fingerprint)
    row = find("far")
    assert isinstance(row, CatalogRow)
    assert (row.ready(), row.title, str(place_of(row))) == (
        True,
        "the images of s3://bucket/rows/",
        "s3://bucket/rows/",
    )
    own_rows("[far]\npath = 's3://bucket/rows/'\ngroup = 'patient'")
    with pytest.raises(DataError, match="of s3://bucket/rows/ has no group 'patient'"):
        load("far", CONFIG, side=64)


@pytest.mark.slow
def test_a_row_of_the_users_own_may_be_a_table_or_shards_by_a_pattern(
    store: str, folder: Path, here: Dataset, tmp_path: Path, own_rows: Callable[[str], None]
) -> None:
    data = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(data, "png")
    pq.write_table(pa.table({"image": [data.getvalue()] * 8, "kind": ["a", "b"] * 4}), tmp_path / "data" / "t.parquet")
    RemoteFiles(Address("s3://bucket/own/")).write("t.parquet", tmp_path / "data" / "t.parquet")
    packed(folder, tmp_path / "data" / "pack")
    own_rows(
        "[near]\npath = 't.parquet'\n[far]\npath = 's3://bucket/own/t.parquet'\n[shards]\npath = 'pack/images-*.tar'\n"
        f"[url]\npath = 'file://{tmp_path}/data/t.parquet'"
    )
    by_kind = DataConfig(label_column="kind")
    for name in ("near", "far", "url"):
        assert list_images(find(name), None, by_kind).classes == ("a", "b"), name
    assert load("shards", CONFIG, side=64).images.names == here.images.names


def test_a_row_of_the_users_own_at_a_wrong_address_is_one_line(store: str, own_rows: Callable[[str], None]) -> None:
    for path, expected in {
        "s3://nowhere/x/": "there is no s3://nowhere/x/; check the address: the bucket",
        "s3://bucket/gone.tar": r"there is no s3://bucket/gone\.tar",
        "none-*.tar": r"none-\*\.tar holds no files; check the path",
    }.items():
        own_rows(f"[far]\npath = '{path}'")
        with pytest.raises(DataError, match=expected) as caught:
            load("far", CONFIG, side=64)
        assert "\n" not in str(caught.value)
    own_rows(
        "[a]\npath = 's3://bucket/x.zip'\n[b]\npath = 'https://me:secret@host/x.tar'\n[c]\npath = 's3://bucket/x.tar'"
        "\n[d]\npath = 'file://'"
    )
    with pytest.raises(DataError) as caught:
        find("c")
    said = str(caught.value)
    assert "neither a shard (.tar) nor a table (.parquet)" in said
    assert "came with a password" in said
    assert "file:// names no path" in said
    assert "me:secret" not in said
    assert "[c]" not in said
    assert "\n" not in said


def test_a_bucket_that_is_not_there_is_one_line(store: str) -> None:
    with pytest.raises(DataError, match="there is no s3://nowhere/x/; check the address: the bucket"):
        list_images(find("s3://nowhere/x/"))
    with pytest.raises(DataError, match=r"there is no s3://bucket/gone\.tar"):
        list_images(find("s3://bucket/gone.tar"))
    with pytest.raises(DataError, match="s3://bucket/empty/ holds no files"):
        list_images(find("s3://bucket/empty/"))


def test_without_credentials_it_says_so_in_one_line(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(DataError, match="cannot be read: no credentials were found; credentials come from the"):
            list_images(find("s3://bucket/noise/"))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_package_that_is_missing_is_named_by_its_extra() -> None:
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match=r"gs://bucket/x/ needs a package.*; pip install 'hptctl\[gs\]'"):
            list_images(find("gs://bucket/x/"))
    else:
        pytest.skip("gcsfs is installed")


def test_shards_of_a_web_server_are_read_in_parts(folder: Path, here: Dataset, tmp_path: Path) -> None:
    packed(folder, tmp_path / "noise")
    with web_server(tmp_path) as host:
        same(here, load(f"{host}/noise/", CONFIG, side=64))
        shards = [path.name for path in (tmp_path / "noise").glob("*.tar")]
        assert {name for name, first, last in Ranges.asked} >= set(shards)
        assert not [1 for name, first, last in Ranges.asked if last - first > 5 << 20]
        last = len(shards) - 1
        same(here, load(f"{host}/noise/images-{{000000..{last:06d}}}.tar", CONFIG, side=64))
        shutil.rmtree(tmp_path / "noise")
        with pytest.raises(DataError, match="lists no files, as few web servers do; name them"):
            list_images(find(f"{host}/noise/"))


def test_a_host_that_refuses_for_a_while_is_asked_again(
    folder: Path, here: Dataset, tmp_path: Path, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    packed(folder, tmp_path / "noise")
    with web_server(tmp_path) as host:
        Ranges.broken = 2
        same(here, load(f"{host}/noise/", CONFIG, side=64))
        assert "trying again in 0 s" in caplog.text
        listing = list_images(find(f"{host}/noise/"))
        Ranges.broken = 1000
        with listing.source.open() as read, pytest.raises(DataError, match=r"cannot be read \(.*503.*, 3 times\)"):
            read(listing.names[0])


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter22@host/x.tar",
        "s3://key:hunter22@bucket/x/",
        "https://host/x.tar?X-Amz-Credential=me&X-Amz-Signature=hunter22",
        "https://host/x.tar?sig=hunter22",
    ],
)
def test_an_address_with_a_secret_is_refused_without_saying_it(address: str) -> None:
    with pytest.raises(DataError, match="came with a password or a signature") as error:
        find(address)
    assert "hunter22" not in str(error.value)


def test_what_is_not_read_from_afar_says_what_is() -> None:
    with pytest.raises(DataError, match=r"s3://bucket/set\.zip is neither a shard .* hptctl datasets pack"):
        find("s3://bucket/set.zip")
    with pytest.raises(DataError, match=r"nosuch://x/ cannot be read: .*nosuch"):
        list_images(find("nosuch://x/"))


def test_braces_are_names_one_by_one() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{train,val}-{0..1}") == ["train-0", "train-1", "val-0", "val-1"]
    with pytest.raises(DataError, match="no range of files"):
        expand("{5..2}")


def test_an_address_has_a_folder_a_pattern_and_a_name() -> None:
    assert Address("s3://bucket/a/train-{0..9}.tar").parts == ("s3://bucket/a/", "train-{0..9}.tar")
    assert Address("s3://my.bucket").parts == ("s3://my.bucket", "")
    assert [
        Address(url).name for url in ("s3://b/flowers/", "https://h/x/train-{0..9}.tar", "hf://datasets/me/set")
    ] == [
        "flowers",
        "x",
        "set",
    ]


def test_a_file_url_is_a_path(folder: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "my images, 100 %"
    spaced.symlink_to(folder)
    for url in (f"file://{folder}", f"FILE://localhost{folder}", spaced.as_uri()):
        assert find_path(url) == folder
        assert address_of(url) is None


def test_a_file_url_without_a_path_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)  # which an empty path would be
    for url in ("file://", "FILE://"):
        with pytest.raises(DataError, match=f"{url} names no path; write for example file:///data/my-images"):
            find_path(url)


def test_a_file_that_shrank_is_read_again_and_then_named(tmp_path: Path, at_once: None) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"a\.tar cannot be read \(it ended 60 bytes too early, 3 times\)"):
        LocalFiles(tmp_path).read("a.tar", 80, 80)
