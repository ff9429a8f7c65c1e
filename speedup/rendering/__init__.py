"""A report as tables, pages and figures. Knows no analysis and no plan, only the values of a report."""
