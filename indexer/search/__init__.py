"""From a query to hits: exact where it must be, fresh always. `searcher.Searcher` is the door."""
