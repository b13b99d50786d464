"""Who was made from what: events of every stage, and the graph that they draw."""
