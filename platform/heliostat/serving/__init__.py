"""The data plane: gateway, variants, split, fallback and evidence."""
