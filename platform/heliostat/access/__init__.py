"""Who may ask for what: seals between our own parts; keys, tokens and roles come later."""
