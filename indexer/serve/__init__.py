"""`indexer serve`: the search page and the HTTP API. An application: it draws on both packages, nothing imports it."""
