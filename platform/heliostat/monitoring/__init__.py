"""What live traffic showed: exposures, late labels, quality; reads what others wrote."""
