"""`indexer export --hf`: a data set for other programs, with the vectors exactly as stored."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.store import hub_dataset
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.tables import make_table, unit_rows

ROWS = 23


@pytest.fixture
def db(tmp_path):
    make_table(tmp_path / "db", unit_rows(ROWS, 8), [{"grade": i % 3, "site": "ab"[i % 2]} for i in range(ROWS)])
    return tmp_path / "db"


def test_the_data_set_holds_every_row_with_its_labels_and_its_vector_bit_for_bit(db, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_dataset, "FILE_BYTES", 10 * 4 * 8)  # ten rows a file
    done = call("indexer", "export", db, "--hf", tmp_path / "out", "--json")
    assert (done.code, done.json["rows"]) == (0, ROWS), done.err
    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [f.name for f in files] == [f"train-{i:05d}-of-00003.parquet" for i in range(3)]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table.column_names == ["key", "part", "content", "norm", "grade", "site", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    store = EmbeddingStore.open(str(db))
    read = store.vectors(columns=["key", "grade"])
    assert table.select(["key", "grade"]).to_pydict() == read.columns.select(["key", "grade"]).to_pydict()
    vectors = np.stack(pd.read_parquet(tmp_path / "out" / "data")["embedding"].to_numpy())
    assert (vectors == read.vectors.astype(np.float32)).all()
    card = (tmp_path / "out" / "README.md").read_text()
    assert store.spec.fingerprint in card
    assert "data_files: data/*.parquet" in card
    assert str(db) not in card  # nor any address of this machine


def test_the_data_set_opens_in_datasets_and_has_the_columns_that_fiftyone_and_embedding_atlas_take(db, tmp_path):
    import datasets

    assert call("indexer", "export", db, "--hf", tmp_path / "out", "--where", "grade = 1").code == 0
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(rows["grade"]) == {1}
    assert len(rows[0]["embedding"]) == 8
    # Embedding Atlas takes a column of equally long lists of floats (--vector); FiftyOne a matrix (n, dim) of floats
    vectors = np.stack(pd.read_parquet(tmp_path / "out" / "data")["embedding"])
    assert (vectors.shape, vectors.dtype) == ((len(rows), 8), np.float32)
    help_text = " ".join(call("indexer", "export", "-h").out.split())
    assert "--vector embedding" in help_text
    assert 'numpy.stack(pandas.read_parquet("DIR/data")["embedding"])' in help_text


@pytest.mark.parametrize("there", ["a file", "a full folder", "no parent", "no row", "two places"])
def test_nothing_is_written_where_it_cannot_be_whole(db, tmp_path, there):
    place, more = tmp_path / "out", []
    if there == "a file":
        place.write_text("x")
    elif there == "a full folder":
        place.mkdir()
        (place / "x").write_text("x")
    elif there == "no parent":
        place = tmp_path / "none" / "out"
    elif there == "no row":
        more = ["--where", "grade = 9"]
    else:
        more = [tmp_path / "x.npy"]
    before = sorted(tmp_path.rglob("*"))
    done = call("indexer", "export", db, *more, "--hf", place)
    assert done.code == (2 if there == "two places" else 1)
    assert sorted(p for p in tmp_path.rglob("*") if ".lock" not in p.name) == [
        p for p in before if ".lock" not in p.name
    ]
