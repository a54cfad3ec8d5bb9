"""Images in tables and arrays: Parquet, npz, and tables that list image files."""
