"""Judge prompts in other languages than ragas's English, as data."""
