"""Language models behind one protocol: `direct`, which needs none, and any OpenAI-compatible endpoint."""
