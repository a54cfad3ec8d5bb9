"""LanceDB tables: rows, ledger, failures, text vectors. The only package that imports lancedb and lance."""
