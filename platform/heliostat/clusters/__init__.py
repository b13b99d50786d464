"""Clusters: typed KubeRay models, what they render to, and the checks that prove it offline."""
