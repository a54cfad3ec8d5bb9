"""A table's map as it is shown: places in the unit square, tiles of density, colours of a column, regions."""
