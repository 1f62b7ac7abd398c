"""Small files of exactly the form in which each data set is distributed."""

from pathlib import Path

import numpy as np
import openpyxl
import pytest
import scipy.io
import xlwt
from PIL import Image

from visualquality.data.manifest import Row
from visualquality.data.sources import import_dataset
from visualquality.errors import UserError

SHARED = Path(__file__).parents[1] / "../shared/data"


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def draw(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def rows(name: str, root: Path, **options) -> tuple[Row, ...]:
    imported = import_dataset(name, root, **options)
    assert imported.missing == () or options.get("missing") == "skip"
    assert all(row.image.is_file() and row.image.is_absolute() for row in imported.manifest.rows)
    return imported.manifest.rows


def brief(found: tuple[Row, ...]) -> list[tuple]:
    return [(row.image.name, row.mos, row.std, row.split) for row in found]


def refusal(name: str, root: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        import_dataset(name, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def kadid(root: Path) -> Path:
    put(
        root / "dmos.csv",
        "dist_img,ref_img,dmos,var\r\nI01_01_01.png,I01.png,4.57,0.496\r\n"
        "I07_12_05.png,I07.png,1,0\r\nI81_25_03.png,I81.png,2.5,1.21\r\n",
    )
    draw(root / "images", "I01_01_01.png", "I07_12_05.png", "I81_25_03.png", "I01.png")
    return root


def koniq(root: Path, sets: bool = True) -> Path:
    put(
        root / "koniq10k_scores_and_distributions.csv",
        '"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"\n'
        '"1.jpg",0,0,25,73,7,105,3.83,0.53,77.4\n"2.jpg",0,3,45,47,1,96,3.48,0.58,68.7\n"3.jpg",0,0,1,1,0,2,3.5,0.5,60\n',
    )
    if sets:
        put(
            root / "koniq10k_distributions_sets.csv",
            "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set\n1.jpg,0,0,0.2,0.7,0.1,105,77.38,0.53,training\n"
            "2.jpg,0,0,0.5,0.5,0,96,68.73,0.58,test\n3.jpg,0,0,0.5,0.5,0,2,60.1,0.5,validation\n",
        )
    draw(root / "512x384", "1.jpg", "2.jpg", "3.jpg")
    return root


def spaq(root: Path, header: tuple[str, ...] = ("Image name", "MOS", "Brightness")) -> Path:
    book = openpyxl.Workbook()
    for line in (header, ("00001.jpg", 52.5, 60.1), ("00002.jpg", 100, None), (None, None, None)):
        book.active.append(line)
    (root / "Annotations").mkdir(parents=True)
    book.save(root / "Annotations" / "MOS and Image attribute scores.xlsx")
    draw(root / "TestImage", "00001.jpg", "00002.jpg")
    return root


def clive(root: Path, names: list[str] | None = None, std: int = 9) -> Path:
    names = names or [f"t{i}.bmp" for i in range(1, 8)] + ["3.bmp", "4.JPG"]
    cells = np.array([[name] for name in names], dtype=object)
    (root / "Data").mkdir(parents=True)
    scipy.io.savemat(root / "Data" / "AllImages_release.mat", {"AllImages_release": cells})
    scipy.io.savemat(
        root / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.arange(9.0)[None] * 10}
    )
    scipy.io.savemat(
        root / "Data" / "AllStdDev_release.mat", {"AllStdDev_release": np.arange(std)[None] + 0.5}
    )
    draw(root / "Images", "3.bmp", "4.jpg")
    draw(root / "Images" / "trainingImages", *(f"t{i}.bmp" for i in range(1, 8)))
    return root


BID = (("Image Number", "Average Subjective Grade"), (1.0, 2.5), (586, 5), (1003, 0))


def bid(root: Path, suffix: str = "xls", folder: str = "ImageDatabase") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if suffix == "xls":
        old = xlwt.Workbook()
        sheet = old.add_sheet("Sheet1")
        for i, line in enumerate(BID):
            for j, value in enumerate(line):
                sheet.write(i, j, value)
        old.save(str(root / "DatabaseGrades.xls"))
    else:
        book = openpyxl.Workbook()
        for line in BID:
            book.active.append(line)
        book.save(root / "DatabaseGrades.xlsx")
    draw(root / folder, "DatabaseImage0001.JPG", "DatabaseImage0586.jpg", "DatabaseImage1003.JPG")
    return root


def agiqa(root: Path) -> Path:
    put(
        root / "data.csv",
        "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align\n"
        'sd1.5_lowcorr_003.jpg,"a cat, asleep",,,anime style,3.25,0.5,1.5,0.7\n'
        "DALLE2_normal_000.jpg,red armor,,,,0,0.25,4.5,0.1\n",
    )
    draw(root / "images", "sd1.5_lowcorr_003.jpg", "DALLE2_normal_000.jpg")
    return root


def biq(
    root: Path,
    train: str = "ss01 (1).jpg,0.8471,,\n",
    bom: str = "",
    test: str = "ss03 (9).jpg,0\n",
) -> Path:
    put(
        root / "Train (Images and MOS).csv",
        f"{bom}Image Name,MOS,,\nss02 (1014).jpg,0.2874,,\n,,,\n{train}",
    )
    put(root / "Test (Images and MOS).csv", f"Image Name,MOS\n{test}")
    draw(root / "Images", "ss02 (1014).JPG", "ss01 (1).jpg", "ss03 (9).jpg")
    return root


def sriqa(root: Path) -> Path:
    lines = (
        "a1_Original.png a1_SeeSRx4.png 100.00000000000001\na1_Original.png a1_Original.png 34.9\n"
    )
    put(root / "SRIQA-Bench_test_all.txt", lines)
    draw(root / "images", "a1_Original.png", "a1_SeeSRx4.png")
    return root


FORMS = {
    "kadid10k": kadid,
    "koniq10k": koniq,
    "spaq": spaq,
    "clive": clive,
    "bid": bid,
    "agiqa3k": agiqa,
    "biq2021": biq,
    "sriqa-bench": sriqa,
}
