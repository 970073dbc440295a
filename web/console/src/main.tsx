import { render } from "preact";
import { App } from "./app";
import { start } from "./live";
import { apply } from "./theme";

const root = document.getElementById("app");
if (root !== null) {
  apply();
  render(<App />, root);
  void start();
}
