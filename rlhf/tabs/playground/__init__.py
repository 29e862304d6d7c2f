"""The Playground page: chatting with policies side by side, and letting one answer a set of prompts."""
