"""Rules for manifests, offline: each is a function from a bundle of documents to findings."""
