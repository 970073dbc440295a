// A command line to take along.
import { useState } from "preact/hooks";

const THANKS_MS = 1600;

export function Command(props: { text: string }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(props.text);
      setCopied(true);
      setTimeout(() => setCopied(false), THANKS_MS);
    } catch {
      // Without the right to the clipboard it can still be marked and copied by hand.
    }
  };
  return (
    <span class="command">
      <code>{props.text}</code>
      <button type="button" class="quiet-button" onClick={() => void copy()} aria-label={`copy: ${props.text}`}>
        {isCopied ? "copied" : "copy"}
      </button>
    </span>
  );
}
