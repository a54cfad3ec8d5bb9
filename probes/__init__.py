"""Linear, kNN and zero-shot probes fitted from stored embeddings; no image is embedded again."""
