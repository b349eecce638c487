"""Writes the Parquet files of tests/golden/parquet from the invented records of datasets/fixtures, with pyarrow, which
the Hub's own files are made with. Run: python tools/goldens/make_parquet_golden.py (needs pyarrow).
"""
import json
import pathlib

import pyarrow
import pyarrow.parquet

root = pathlib.Path(__file__).parents[2]
out = root / "tests" / "golden" / "parquet"
out.mkdir(exist_ok=True)
for name, compression, row_group_size in [
    ("openbookqa", "snappy", 2),
    ("boolq", "zstd", 10),
    ("hellaswag", "gzip", 10),
    ("wikitext2-test", "none", 1),
]:
    lines = (root / "datasets" / "fixtures" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    table = pyarrow.Table.from_pylist([json.loads(line) for line in lines])
    pyarrow.parquet.write_table(table, out / f"{name}.parquet", compression=compression, row_group_size=row_group_size)
