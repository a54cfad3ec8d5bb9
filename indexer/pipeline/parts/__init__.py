"""Work in parts: each of several processes, on any machine, embeds its share of an archive; one at a time commits."""
