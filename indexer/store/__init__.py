"""LanceDB tables: rows, ledger, failures, text vectors. Alone imports lancedb and lance."""
