"""Search by group: pooled vectors name the candidates, late interaction ranks them."""
