"""A search result drawn: pictures of queries and hits, the page, the contact sheet."""
