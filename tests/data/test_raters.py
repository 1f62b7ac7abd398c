"""One row a rating: mean, std and n of each image, or one sentence about the row that cannot be."""

import statistics

import pytest
from typer.testing import CliRunner

from conftest import picture
from visualquality.cli import app
from visualquality.data.manifest import Manifest
from visualquality.data.sources import import_dataset
from visualquality.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("abc"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        picture(seed).save(tmp_path / "sub" / f"{name}.png")
    return tmp_path


def put(folder, text):
    path = folder / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    return path


RATINGS = {"a": (4, 5, 3), "b": (1, 2.5), "c": (3,)}


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("image,rater,score", "sub/{name}.png,{who},{rating}", {}),
        ("rating;image", "{rating};sub\\{name}.png", {}),  # nobody says who rated
        (
            "File\tWorker\tGrade",
            "sub/{name}.png\t{who}\t{rating}",
            {"image": "File", "rater": "Worker", "mos": "Grade"},
        ),
    ],
)
def test_mean_std_and_number_of_each_image(folder, header, row, columns):
    lines = [header]
    # Not image by image, as a study is done.
    for who in range(3):
        for name, ratings in RATINGS.items():
            if who < len(ratings):
                lines.append(row.format(name=name, who=who, rating=ratings[who]))
    path = put(folder, "\n".join(lines) + "\n")
    rows = import_dataset("raters", path, columns=columns).manifest.rows
    assert [each.image.stem for each in rows] == list(RATINGS)
    for each, ratings in zip(rows, RATINGS.values(), strict=True):
        assert each.mos == pytest.approx(statistics.mean(ratings))
        std = statistics.stdev(ratings) if len(ratings) > 1 else None
        assert each.std == (None if std is None else pytest.approx(std))
        assert (each.extra, each.dataset) == ({"n": len(ratings)}, "ratings")


def test_fields_of_an_image_are_kept(folder):
    path = put(
        folder,
        "image,rating,split,reference\nsub/a.png,4,train,sub/c.png\nsub/a.png,2,train,sub/c.png\n",
    )
    (row,) = import_dataset("raters", path).manifest.rows
    assert (row.mos, row.split, row.reference) == (3, "train", "sub/c.png")
    assert row.reference_image == (folder / "sub" / "c.png").resolve()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,rating\nsub/a.png,4\nsub/a.png,good\n", "row 3, column 'rating': 'good' is not"),
        ("image,rating\nsub/a.png,\n", "row 2, column 'rating': is empty"),
        ("image,grade\nsub/a.png,4\n", "has none of rating, score, mos: name the column"),
        ("image,rating,score\nsub/a.png,4,3\n", "has rating and score: name the column"),
        (
            "image,rater,rating\nsub/a.png,x,4\nsub/b.png,x,4\nsub/a.png,x,3\n",
            "row 4, column 'rater': 'x' rated sub/a.png in row 2 already",
        ),
        (
            "image,rating,split\nsub/a.png,4,train\nsub/a.png,4,test\n",
            "row 3, column 'split': is not 'train', as in row 2",
        ),
        ("photo,rating\nsub/a.png,4\n", "column 'image' is missing"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, text, words):
    with pytest.raises(UserError) as error:
        import_dataset("raters", put(folder, text))
    assert words in str(error.value)


def test_columns_that_there_are_not_are_refused(folder):
    path = put(folder, "image,rating\nsub/a.png,4\n")
    with pytest.raises(UserError, match="columns: worker is none of image, mos, rater"):
        import_dataset("raters", path, columns={"worker": "rating"})
    with pytest.raises(UserError, match="column 'who' is missing"):
        import_dataset("raters", path, columns={"rater": "who"})


def test_the_command_writes_a_manifest_and_warns_of_a_std_on_another_scale(folder):
    run = CliRunner()
    path = put(folder, "image,rater,score\nsub/a.png,x,4\nsub/a.png,y,5\nsub/b.png,x,2\n")
    done = run.invoke(app, ["data", "import", "raters", str(path), "-o", str(folder / "m.csv")])
    assert (done.exit_code, "warning" in done.stderr) == (0, False), done.stderr
    rows = Manifest.read(folder / "m.csv").rows
    assert [(row.mos, row.extra["n"]) for row in rows] == [(4.5, "2"), (2, "1")]
    path = put(folder, "image,mos,std\nsub/a.png,95,0.8\nsub/b.png,5,0.7\n")
    done = run.invoke(app, ["data", "import", "csv", str(path), "-o", str(folder / "n.csv")])
    assert done.exit_code == 0
    assert "std cannot be on the scale of mos" in " ".join(done.stderr.split())
    done = run.invoke(app, ["data", "check", str(folder / "n.csv")])
    assert "std cannot be on the scale of mos" in " ".join(done.stdout.split())
