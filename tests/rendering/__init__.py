"""Reports as tables, pages and figures."""
