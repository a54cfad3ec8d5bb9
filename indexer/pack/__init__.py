"""An archive as it lies on disk or behind DICOMweb → WebDataset shards with de-identified metadata."""
