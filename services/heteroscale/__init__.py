"""Coordinated autoscaling for prefill/decode-disaggregated LLM serving."""
