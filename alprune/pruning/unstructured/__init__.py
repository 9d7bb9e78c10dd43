"""Unstructured baselines: single weights scored and masked."""
