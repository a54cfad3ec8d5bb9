"""Groups of rows (series, slides, studies, patients): pooled vectors beside the table, and what changed of them."""
