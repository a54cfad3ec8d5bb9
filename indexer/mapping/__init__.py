"""Maps: 2-D coordinates of a table's rows, made by a linear projection or by t-SNE of a sample."""
