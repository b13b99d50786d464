"""How a model version earns or loses traffic: plans, evidence, verdicts and decisions; pure."""
