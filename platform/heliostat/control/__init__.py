"""The rollout controller: carries out what `rollout` decides, and answers about it."""
