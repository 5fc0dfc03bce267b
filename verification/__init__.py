"""The proof: is the patched MiniGPT-4 the model that it claims to be?"""
