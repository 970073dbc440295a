import { render } from "preact";
import { openSite } from "./api";
import { App } from "./app";
import { start } from "./router";

const root = document.getElementById("app");
if (root !== null) {
  start();
  render(<App />, root);
  void openSite();
}
