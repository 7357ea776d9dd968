"""All architectures but plain ResNets: timm's, and how weights of them are found, fetched and named elsewhere.

timm's import takes seconds, so nothing here is imported before another network than a plain ResNet is asked for.
"""
