"""A converted dataset: its columns, its record, its folder, its parquet files."""
