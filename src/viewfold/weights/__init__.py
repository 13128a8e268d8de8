"""Other people's weights: the doors through which a checkpoint, a model's folder or a download enters, strictly."""
