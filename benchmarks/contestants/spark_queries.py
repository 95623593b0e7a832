"""Runs queries written for DuckDB on Spark, over the same Delta tables.

spark_queries.py ASKED; ASKED is a JSON file: {"tables": {name: address}, "queries": {name: SQL}}. Prints for each query
a line {"name", "rows", "first_s", "again_s"}. Started by Spark, in an environment with pyspark and sqlglot.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import sqlglot
from pyspark.sql import SparkSession

asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
builder = SparkSession.builder.appName("clickwell")
for name, value in {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # The defaults are for clusters: 50 tasks to read the table's log, 200 for each shuffle.
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.sql.shuffle.partitions": "4",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
for name, folder in asked["tables"].items():
    spark.read.format("delta").load(folder).createOrReplaceTempView(name)
for name, text in asked["queries"].items():
    (translated,) = sqlglot.transpile(text, read="duckdb", write="spark")
    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        rows = [list(row) for row in spark.sql(translated).collect()]
        seconds.append(time.monotonic() - begun)
    line = {"name": name, "rows": rows, "first_s": seconds[0], "again_s": seconds[1]}
    print(json.dumps(line, default=str), flush=True)
spark.stop()
