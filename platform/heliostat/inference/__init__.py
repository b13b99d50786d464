"""Verify, load, predict: the one predictor for serving, batch, streams and edge."""
