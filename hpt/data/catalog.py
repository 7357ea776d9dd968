"""The catalogue: the datasets that are known by name, a row each."""

from __future__ import annotations

from functools import partial

from hpt.data import embedded
from hpt.data.archive import Archive
from hpt.data.fetch import Checksum
from hpt.data.listing import Split
from hpt.data.publishers import bdd, chexpert, classes, coco, domainnet, flowers, viper, voc, xview
from hpt.data.row import RGB, CatalogRow

FIFTHS: dict[Split, float] = {"val": 0.2, "test": 0.2}
"""The shares of val and test of the aerial scenes: the publication cuts them 60/20/20."""

VGG = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
PASCAL = "https://thor.robots.ox.ac.uk/pascal/VOC/"
COCO = "http://images.cocodataset.org/"
DOMAINNET = "http://csr.bu.edu/ftp/visda/2019/multi-source/"
MENDELEY = "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"


def _md5(digest: str) -> Checksum:
    return Checksum("md5", digest)


def _domain(
    name: str, kind: str, *, train: int, test: int, megabytes: int, mean: RGB, std: RGB, below: str = ""
) -> CatalogRow:
    """One of DomainNet's six; counts are those of the cleaned version (tensorflow/datasets domainnet.md)."""
    return CatalogRow(
        name=f"domainnet-{name}",
        title=f"DomainNet, {name}",
        domain=kind,
        licence="none stated; fair use, for research",
        page="https://ai.bu.edu/M3SDA/",
        read=partial(domainnet.read, domain=name),
        folder="domainnet",
        archives=(
            *(
                Archive(list_file, gives=(list_file,), url=f"{DOMAINNET}domainnet/txt/{list_file}", megabytes=3)
                for list_file in (f"{name}_train.txt", f"{name}_test.txt")
            ),
            Archive(f"{name}.zip", gives=(f"{name}/*",), url=f"{DOMAINNET}{below}{name}.zip", megabytes=megabytes),
        ),
        classes=345,
        counts={"train+val": train, "test": test},
        mean=mean,
        std=std,
        note="official train and test; val is cut from train",
    )


CATALOG: dict[str, CatalogRow] = {
    row.name: row
    for row in (
        CatalogRow(
            name="digits",
            title="Optical recognition of handwritten digits",
            domain="drawn",
            licence="CC BY 4.0",
            page="https://archive.ics.uci.edu/dataset/80",
            read=lambda _: embedded.digits(),
            classes=10,
            counts={"train+val+test": 1797},
            note="embedded; cut 70/10/20",
        ),
        CatalogRow(
            name="shapes",
            title="Eight shapes, drawn by this program",
            domain="drawn",
            licence="that of this program",
            page="none",
            read=lambda _: embedded.shapes(),
            classes=8,
            note="embedded; cut 70/10/20",
        ),
        CatalogRow(
            name="resisc",
            title="NWPU-RESISC45, aerial scenes",
            domain="aerial",
            licence="none stated; offered for research",
            page="https://gcheng-nwpu.github.io/#Datasets",
            read=classes.resisc,
            archives=(Archive("NWPU-RESISC45.rar", gives=("NWPU-RESISC45/*/*.jpg",), megabytes=430),),
            classes=45,
            counts={"train": 18_900, "val": 6_300, "test": 6_300},
            shares=FIFTHS,
            mean=(0.3680, 0.3810, 0.3436),
            std=(0.2035, 0.1854, 0.1849),
            note="no split is published; cut 60/20/20",
        ),
        CatalogRow(
            name="ucmerced",
            title="UC Merced land use, aerial scenes",
            domain="aerial",
            licence="public domain (USGS National Map imagery)",
            page="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
            read=classes.ucmerced,
            archives=(
                Archive(
                    "UCMerced_LandUse.zip",
                    gives=("UCMerced_LandUse/Images/*/*.tif",),
                    url="http://weegee.vision.ucmerced.edu/datasets/UCMerced_LandUse.zip",
                    megabytes=332,
                    checksum=_md5("5b7ec56793786b6dc8a908e8854ac0e4"),  # torchgeo's ucmerced.py
                ),
            ),
            classes=21,
            counts={"train": 1_260, "val": 420, "test": 420},
            shares=FIFTHS,
            mean=(0.4842, 0.4901, 0.4505),
            std=(0.2180, 0.2021, 0.1958),
            note="no split is published; cut 60/20/20",
        ),
        CatalogRow(
            name="xview",
            title="xView, objects in satellite scenes",
            domain="aerial",
            licence="CC BY-NC-SA 4.0; registration",
            page="https://challenge.xviewdataset.org/data-download",
            read=xview.read,
            archives=(
                Archive("train_labels.tgz", gives=("xView_train.geojson",)),
                Archive("train_images.tgz", gives=("train_images/*.tif",)),
            ),
            keep=("xView_train.geojson", "train_images"),
            source=xview.Scenes,
            task="multi-label",
            classes=xview.MOST_FREQUENT,
            mean=(0.3680, 0.3810, 0.3436),
            std=(0.2035, 0.1854, 0.1849),
            note=f"chips of {xview.CHIP} px, cut 70/10/20 by scene; the {xview.MOST_FREQUENT} types with most objects",
        ),
        CatalogRow(
            name="bdd",
            title="BDD100K, weather in driving scenes",
            domain="driving",
            licence="its own, non-commercial; registration",
            page="http://bdd-data.berkeley.edu",
            read=bdd.read,
            archives=(
                Archive(
                    "bdd100k_labels_release.zip",
                    gives=tuple(f"bdd100k/labels/bdd100k_labels_images_{name}.json" for name, _ in bdd.SETS),
                ),
                Archive(
                    "bdd100k_images_100k.zip",
                    gives=tuple(f"bdd100k/images/100k/{name}/*.jpg" for name, _ in bdd.SETS),
                ),
            ),
            keep=("bdd100k/labels/bdd100k_labels_images_*.json",),
            classes=6,
            mean=(0.2789, 0.2929, 0.2902),
            std=(0.2474, 0.2653, 0.2761),
            note="test is the official val (test has no published labels); val is cut from train; no weather, no image",
        ),
        CatalogRow(
            name="viper",
            title="VIPER, classes in rendered driving scenes",
            domain="driving, rendered",
            licence="its own, for research; registration",
            page="https://playing-for-benchmarks.org/download/",
            read=viper.read,
            archives=tuple(
                Archive(f"{name}_{archive}", gives=(f"{name}/{pattern}",))
                for name, _ in viper.SETS
                for archive, pattern in (("cls_*.zip", "cls/*/*.png"), ("img_*_jpg.zip", "img/*/*.jpg"))
            ),
            keep=tuple(f"{name}/cls" for name, _ in viper.SETS),
            task="multi-label",
            classes=23,
            mean=(0.3485, 0.3422, 0.3395),
            std=(0.2449, 0.2408, 0.2390),
            note="frames with pixel classes; test is the official val; val is cut from train by sequence",
        ),
        CatalogRow(
            name="chexpert",
            title="CheXpert, findings in chest x-rays",
            domain="medical",
            licence="its own, for research; registration",
            page="https://stanfordmlgroup.github.io/competitions/chexpert/",
            read=chexpert.read,
            archives=(
                Archive(
                    "CheXpert-v1.0-small.zip",
                    gives=("CheXpert-v1.0*/train.csv", "CheXpert-v1.0*/valid.csv", "CheXpert-v1.0*/train/*"),
                ),
            ),
            task="multi-label",
            classes=5,
            counts={"train+val": 223_414, "test": 234},
            mean=(0.5028, 0.5028, 0.5028),
            std=(0.2919, 0.2919, 0.2919),
            note="test is the official valid; val is cut from train by patient; uncertain and blank count as 0",
        ),
        CatalogRow(
            name="chest-xray-kids",
            title="Pneumonia in children's chest x-rays",
            domain="medical",
            licence="CC BY 4.0",
            page="https://data.mendeley.com/datasets/rscbjbr9sj/2",
            read=classes.chest_xray_kids,
            archives=(
                Archive(
                    "ChestXRay2017.zip",
                    gives=("chest_xray/train/*/*", "chest_xray/test/*/*"),
                    url=f"{MENDELEY}f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
                    megabytes=1_236,
                ),
            ),
            classes=2,
            counts={"train+val": 5_232, "test": 624},
            mean=(0.4815, 0.4815, 0.4815),
            std=(0.2377, 0.2377, 0.2377),
            note="official train and test; val is cut from train by patient",
        ),
        CatalogRow(
            name="coco-2014",
            title="COCO 2014, objects in photographs",
            domain="natural",
            licence="annotations CC BY 4.0; images under Flickr's terms",
            page="https://cocodataset.org/#download",
            read=coco.read,
            archives=(
                Archive(
                    "annotations_trainval2014.zip",
                    gives=tuple(f"annotations/instances_{name}.json" for name, _ in coco.SETS),
                    url=f"{COCO}annotations/annotations_trainval2014.zip",
                    megabytes=253,
                    size=252_872_794,
                ),
                Archive(
                    "train2014.zip",
                    gives=("train2014/*.jpg",),
                    url=f"{COCO}zips/train2014.zip",
                    megabytes=13_511,
                    size=13_510_573_713,
                ),
                Archive(
                    "val2014.zip",
                    gives=("val2014/*.jpg",),
                    url=f"{COCO}zips/val2014.zip",
                    megabytes=6_645,
                    size=6_645_013_297,
                ),
            ),
            keep=tuple(f"annotations/instances_{name}.json" for name, _ in coco.SETS),
            task="multi-label",
            classes=80,
            counts={"train+val": 82_783, "test": 40_504},
            mean=(0.4702, 0.4470, 0.4076),
            std=(0.2785, 0.2740, 0.2889),
            note="test is the official val (test has no published labels); val is cut from train",
        ),
        CatalogRow(
            name="pascal-voc",
            title="Pascal VOC 2007+2012, objects in photographs",
            domain="natural",
            licence="images under Flickr's terms",
            page="http://host.robots.ox.ac.uk/pascal/VOC/",
            read=voc.read,
            archives=(
                Archive(
                    "VOCtrainval_06-Nov-2007.tar",
                    gives=("VOCdevkit/VOC2007/ImageSets/Main/*_trainval.txt", "VOCdevkit/VOC2007/JPEGImages/*.jpg"),
                    url=f"{PASCAL}voc2007/VOCtrainval_06-Nov-2007.tar",
                    megabytes=460,
                    checksum=_md5("c52e279531787c972589f7e41ab4ae64"),  # these three: torchvision's voc.py
                ),
                Archive(
                    "VOCtest_06-Nov-2007.tar",
                    gives=("VOCdevkit/VOC2007/ImageSets/Main/*_test.txt", "VOCdevkit/VOC2007/JPEGImages/*.jpg"),
                    url=f"{PASCAL}voc2007/VOCtest_06-Nov-2007.tar",
                    megabytes=451,
                    checksum=_md5("b6e924de25625d8de591ea690078ad9f"),
                ),
                Archive(
                    "VOCtrainval_11-May-2012.tar",
                    gives=("VOCdevkit/VOC2012/ImageSets/Main/*_trainval.txt", "VOCdevkit/VOC2012/JPEGImages/*.jpg"),
                    url=f"{PASCAL}voc2012/VOCtrainval_11-May-2012.tar",
                    megabytes=2_000,
                    checksum=_md5("6cd6e144f989b92b3379bac3b3de84fd"),
                ),
            ),
            task="multi-label",
            classes=20,
            counts={"train": 8_218, "val": 8_333, "test": 4_952},
            mean=(0.4511, 0.4292, 0.3967),
            std=(0.2764, 0.2729, 0.2849),
            note="official splits; test is that of 2007; a class with difficult objects only counts as absent",
        ),
        CatalogRow(
            name="flowers",
            title="Oxford 102 Flowers",
            domain="natural",
            licence="none stated; offered for research",
            page=VGG,
            read=flowers.read,
            folder="flowers-102",
            archives=(  # checksums: torchvision's flowers102.py
                Archive(
                    "imagelabels.mat",
                    gives=("imagelabels.mat",),
                    url=f"{VGG}imagelabels.mat",
                    megabytes=1,
                    checksum=_md5("e0620be6f572b9609742df49c70aed4d"),
                ),
                Archive(
                    "setid.mat",
                    gives=("setid.mat",),
                    url=f"{VGG}setid.mat",
                    megabytes=1,
                    checksum=_md5("a5357ecc9cb78c4bef273ce3793fc85c"),
                ),
                Archive(
                    "102flowers.tgz",
                    gives=("jpg/*.jpg",),
                    url=f"{VGG}102flowers.tgz",
                    megabytes=345,
                    checksum=_md5("52808999861908f626f3c1f4e79d11fa"),
                ),
            ),
            classes=102,
            counts={"train": 1_020, "val": 1_020, "test": 6_149},
            mean=(0.4355, 0.3777, 0.2880),
            std=(0.2970, 0.2459, 0.2705),
            note="official split",
        ),
        _domain(
            "clipart",
            "drawn",
            train=33_525,
            test=14_604,
            megabytes=1_280,
            mean=(0.7362, 0.7167, 0.6834),
            std=(0.3642, 0.3654, 0.3887),
            below="groundtruth/",
        ),
        _domain(
            "infograph",
            "drawn",
            train=36_023,
            test=15_582,
            megabytes=4_340,
            mean=(0.6888, 0.6970, 0.6648),
            std=(0.3331, 0.3094, 0.3281),
        ),
        _domain(
            "painting",
            "drawn",
            train=50_416,
            test=21_850,
            megabytes=3_680,
            mean=(0.5743, 0.5466, 0.5083),
            std=(0.3088, 0.3007, 0.3168),
            below="groundtruth/",
        ),
        _domain(
            "quickdraw",
            "drawn",
            train=120_750,
            test=51_750,
            megabytes=461,
            mean=(0.9525, 0.9525, 0.9525),
            std=(0.2128, 0.2128, 0.2128),
        ),
        _domain(
            "real",
            "natural",
            train=120_906,
            test=52_041,
            megabytes=6_060,
            mean=(0.6059, 0.5890, 0.5558),
            std=(0.3344, 0.3279, 0.3493),
        ),
        _domain(
            "sketch",
            "drawn",
            train=48_212,
            test=20_916,
            megabytes=2_640,
            mean=(0.8327, 0.8270, 0.8179),
            std=(0.2727, 0.2753, 0.2810),
        ),
    )
}
